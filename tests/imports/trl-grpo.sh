trl grpo --model_name_or_path org/name --dataset_name org/math --reward_funcs accuracy_reward my.own_reward --reward_weights 1.0 0.2 \
  --num_generations 4 --max_completion_length 512 --temperature 0.9 --scale_rewards batch --loss_type dr_grpo --beta 0.04 \
  --per_device_train_batch_size 8 --gradient_accumulation_steps 4 --use_peft --lora_r 16 --use_vllm --learning_rate 1e-5
